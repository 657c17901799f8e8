"""A first task, without asyncio. Start `perdure worker first_task_sync:app --embedded`, then run
this."""

from __future__ import annotations

from perdure import App

app = App()


@app.task(max_attempts=3)
def greet(name: str) -> str:
    """Runs in a thread of a worker, at most three times if it fails."""
    return f"Hello, {name}!"


def main() -> None:
    with app.sync as client:
        handle = client.enqueue(greet.call(name="Ada"))
        print(handle.result(timeout=30))


if __name__ == "__main__":
    main()
