"""The doctor: looks at all that a job needs, says what is wrong and how to cure it, and leaves nothing behind."""
