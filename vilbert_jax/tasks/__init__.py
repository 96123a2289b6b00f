"""One file a task: its inputs, loss, metrics and what it shows. Nothing here knows how training works."""
