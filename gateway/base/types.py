"""Types of bytes that several packages exchange."""

Body = bytes | bytearray  # a request's body; one that arrived in many parts is a bytearray
Data = Body | memoryview
