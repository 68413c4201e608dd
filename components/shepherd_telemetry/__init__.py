"""What every process says of itself: metrics, logs, spans.

Knows nothing of what a process does; each component adds its own series to the
registry that it hands over.  Nothing here ever sees the text of a conversation.
"""
