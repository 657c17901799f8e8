-- Functions may name one another, whatever the order of their files; tests call every one of them.

set check_function_bodies = off;
