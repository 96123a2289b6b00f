"""The training engine: it knows no task, no model and no data set.

``loop.train`` is the order of events; ``program`` what its devices run; ``step`` the pure functions inside it;
``evaluation`` and ``prediction`` what is measured; ``best`` which parameters are kept for it; ``batches``, ``config``,
``optimizer``, ``checkpointing``, ``logging``, ``workdir`` and ``report`` what their names say.
"""
