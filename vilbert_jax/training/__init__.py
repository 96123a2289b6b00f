"""The training engine: it knows no task, no model and no data set.

``loop.train`` is the order of events; ``step`` the pure functions inside it; ``optimizer``, ``sharding``,
``checkpointing``, ``logging`` and ``report`` what their names say.
"""
