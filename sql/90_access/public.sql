-- Who may do what. Here: the owner everything, anybody else nothing.

revoke all on schema perdure from public;
revoke all on all tables in schema perdure from public;
revoke all on all sequences in schema perdure from public;
revoke all on all routines in schema perdure from public;
