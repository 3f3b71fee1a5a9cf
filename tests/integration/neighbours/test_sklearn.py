"""scikit-learn through joblib on a farm."""

from __future__ import annotations

import numpy as np
from joblib import parallel_config
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import farmhand.joblib
from farmhand import Farm

assert farmhand.joblib  # imported for the backend that it registers
GRID = {"logisticregression__C": [0.01, 0.1, 1.0, 10.0]}


def search() -> GridSearchCV:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    return GridSearchCV(model, GRID, cv=3).fit(*load_iris(return_X_y=True))


def test_a_grid_search_finds_what_it_finds_without_a_farm(farm: Farm) -> None:
    here = search()
    before = runs(farm)
    with parallel_config(backend="farmhand", farm=farm):
        there = search()
    assert there.best_params_ == here.best_params_
    np.testing.assert_allclose(there.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"])
    while runs(farm) == before:  # a node tells of its runs with its next heartbeat
        pass


def runs(farm: Farm) -> int:
    return sum(node["runs"] for node in farm.status()["nodes"])


def test_a_search_over_what_is_parallel_itself(farm: Farm) -> None:
    data, classes = load_iris(return_X_y=True)
    forest = RandomForestClassifier(n_estimators=8, n_jobs=2, random_state=0)
    with parallel_config(backend="farmhand", farm=farm, n_jobs=2):
        scores = cross_val_score(forest, data, classes, cv=4)
        assert forest.fit(data, classes).score(data, classes) > 0.9
    np.testing.assert_allclose(scores, cross_val_score(forest, data, classes, cv=4))
