"""Estimate areas with the help of the probabilities that a model gives every pixel.

The mean of a class's probability is known for the whole map. At the sampled units, it is compared with the reference.
The estimate is the mean of the reference, corrected by as much of the probabilities' sampling error as helps most:

    area = mean(y) + slope × (mean of p over the map - mean(p)),  slope = cov(y, p) / var(p)

It is unbiased up to terms of 1 / n, however wrong the probabilities are. The interval is that of a power-tuned
prediction-powered estimate, for a stratified sample of a finite population.
Sources: Särndal, Swensson and Wretman 1992, Model assisted survey sampling, section 6.6 (regression estimator);
Stehman 2009, Remote Sensing of Environment 113, 2455-2462 (for areas of maps); Angelopoulos, Duchi and Zrnic 2023,
PPI++: efficient prediction-powered inference, arXiv 2311.01453.

# N units, K classes
"""

from collections.abc import Sequence

import numpy as np

from cwsam_cli.survey.estimators import Estimate, Units
from cwsam_cli.survey.stratified import Floats


def assist(
    units: Units, plain: Sequence[Estimate], probabilities: Floats, means: Floats
) -> tuple[Estimate | None, ...]:
    """Estimate the share of the ground of each class.

    Args:
        units: an interpreted sample.
        plain: the estimates without help, (K,).
        probabilities: the model's probability of each class at each unit, (N, K), 0 to 1.
        means: mean probability of each class over the whole ground, (K,).

    Returns:
        One estimate per class; None where its error is not known, or the probabilities do not vary.
    """
    strata = units.stratified
    found: list[Estimate | None] = []
    for real, own, mean, alone in zip(units.shares.T, probabilities.T, means.tolist(), plain, strict=True):
        spread = strata.variance(own)
        if not (spread > 0 and alone.standard_error and alone.low is not None and alone.high is not None):
            found.append(None)
            continue
        slope = float(np.clip(strata.covariance(real, own) / spread, 0, 1))
        value = float(np.clip(strata.mean(real) + slope * (mean - strata.mean(own)), 0, 1))
        variance = strata.variance(real - slope * own)
        # The plain limits know what a heavy stratum with few units of a class may hide. A symmetric interval does not:
        # with equal allocation it covers a rare class in 79 % of the samples.
        error = float(np.sqrt(variance))
        ratio = error / alone.standard_error
        low, high = value - ratio * (alone.value - alone.low), value + ratio * (alone.high - alone.value)
        found.append(Estimate(value, error, max(0.0, low), min(1.0, high)))
    return tuple(found)
