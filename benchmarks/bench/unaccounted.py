"""A gateway that forgets what it served: the difference is what accounting costs. RouterDash has no such setting."""

from gateway import journal, main


def forget(writer: journal.Writer, entry: object) -> int:
    """In place of Writer.put."""
    return 0


if __name__ == "__main__":
    assert callable(journal.Writer.put)
    setattr(journal.Writer, "put", forget)  # noqa: B010  # a method that is replaced on purpose
    main.main()
