"""Numbers, classes and tissues that were put into drawn data are read from it again."""

import numpy as np
import pytest

from medldm.metrics import attributes


def test_ridge_regression_reads_a_number_from_fewer_scans_than_features():
    random = np.random.default_rng(0)
    ages = random.uniform(20, 80, 60)
    features = 0.3 * random.normal(size=(60, 100)) + np.outer(ages / 20, random.normal(size=100))
    predict = attributes.ridge_regression(features[:40], ages[:40])
    assert np.abs(predict(features[40:]) - ages[40:]).mean() < 2


def test_ridge_regression_of_noise_answers_the_mean():
    random = np.random.default_rng(1)
    ages = random.uniform(20, 80, 50)
    predict = attributes.ridge_regression(random.normal(size=(50, 30)), ages)
    assert np.std(predict(random.normal(size=(50, 30)))) < np.std(ages) / 2


def test_logistic_regression_tells_three_classes():
    random = np.random.default_rng(2)
    classes = np.arange(90) % 3
    features = random.normal(size=(90, 50)) + 4 * np.eye(50)[classes]
    predict = attributes.logistic_regression(features[:60], classes[:60])
    chances = predict(features[60:])
    assert chances.sum(1) == pytest.approx(np.ones(30))
    assert (chances.argmax(1) == classes[60:]).mean() > 0.9


def test_logistic_regression_of_noise_is_not_sure():
    random = np.random.default_rng(3)
    predict = attributes.logistic_regression(random.normal(size=(60, 20)), random.integers(0, 2, 60))
    assert predict(random.normal(size=(60, 20))).max(1).mean() < 0.75


def test_three_tissues_of_known_sizes():
    random = np.random.default_rng(4)
    sizes = (2000, 5000, 3000)
    voxels = np.concatenate([random.normal(level, 0.05, n) for level, n in zip((0.2, 0.5, 0.8), sizes, strict=True)])
    means, shares = attributes.tissue_shares(voxels)
    assert means == pytest.approx([0.2, 0.5, 0.8], abs=0.02)
    assert shares == pytest.approx([0.2, 0.5, 0.3], abs=0.02)


def test_one_grey_is_no_error():
    _, shares = attributes.tissue_shares(np.full(100, 0.5))
    assert shares.sum() == pytest.approx(1)
