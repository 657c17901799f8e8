"""Rule 4: waiting rows are locked one at a time, in strictly descending id."""

from __future__ import annotations

from fix_engine import Engine, outcome_of


def test_parents_that_end_together_each_tell_their_common_parent(engine: Engine) -> None:
    root = engine.start("root")
    engine.spawn(root, ["middle"] * 3)
    for middle in engine.claim(3):
        engine.spawn(middle, ["leaf"])
    engine.finish(*(outcome_of(leaf, "completed") for leaf in engine.claim(3)))
    assert engine.status(root.id) == "completed"
