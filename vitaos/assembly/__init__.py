"""What the commands are assembled from: the one part, beside the commands themselves, that sees everything.

``schemas.py``: the commands' configuration classes. ``builders.py``: configuration -> objects. ``fingerprint.py``: a
run's configuration stored, compared and named. ``session.py``: one start of a run. ``eval_target.py``: a checkpoint,
what describes it and its images. ``evaluation.py``, ``imagenet.py``: the evaluation. ``analysis.py``: the analysis.
"""
