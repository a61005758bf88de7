"""What the commands are assembled from: the one part, beside the commands themselves, that sees everything.

``schemas.py``: the commands' configuration classes. ``builders.py``: configuration -> objects. ``fingerprint.py``: a
run's configuration compared and named. ``stored_config.py``: a checkpoint's configuration read as data.
``start.py``: where a run starts, and whether it is the same run. ``session.py``: what a start writes.
``eval_target.py``: a checkpoint, what describes it and its images.
``evaluation.py``, ``imagenet.py``: the evaluation. ``analysis.py``: the analysis. ``export.py``, ``model_card.py``: a
trained model for others.
"""
