"""Evaluations of a trained model without training: what its answers depend on.

Each gives a :class:`~vitaos.analysis.robustness.table.Table`: one number a row, written as JSON, CSV and a figure.
"""
