"""Assessments of a made-up sample, for tests."""

import numpy as np

from cwsam_cli.survey.design import Design, MapClass, Stratum
from cwsam_cli.survey.estimators import Units, estimate
from cwsam_cli.survey.results import ClassEstimates, InterpreterAgreement, SampleAssessment

NAMES = ["水体", "</script><script>alert(1)</script>", 'forest & "wood"']
COLORS = ["#0000ff", "#ff0000", "#00ff00"]
PIXELS = np.array([200_000, 300_000, 500_000])
COUNTS = np.array([[40, 8, 2], [0, 60, 10], [0, 1, 79]])


def assessment() -> SampleAssessment:
    """200 points in three strata. The map shows too much of the first class, and one interpreter was checked."""
    mapped, reference = np.repeat(np.indices((3, 3)).reshape(2, -1), COUNTS.ravel(), axis=1)
    found = estimate(Units.of_points(mapped, mapped, reference, classes=3, has_class_strata=True, pixels=PIXELS))
    classes = tuple(
        ClassEstimates(
            code=k + 1,
            name=NAMES[k],
            color=COLORS[k],
            points_in_map=int(COUNTS[k].sum()),
            points_in_reference=int(COUNTS[:, k].sum()),
            mapped_share=PIXELS[k] / PIXELS.sum(),
            mapped_ha=PIXELS[k] * 0.09,
            share=found.proportions[k],
            area_ha=found.proportions[k].times(PIXELS.sum() * 0.09),
            users=found.users[k],
            producers=found.producers[k] if k else None,
            assisted_share=found.proportions[k] if k else None,
            assisted_ha=found.proportions[k].times(PIXELS.sum() * 0.09) if k else None,
            note="" if k else "intervals are unreliable",
        )
        for k in range(3)
    )
    design = Design(
        map="map.tif",
        map_sha256="ab" * 32,
        classes=tuple(MapClass(code=k + 1, name=NAMES[k], color=COLORS[k]) for k in range(3)),
        strata_from="",
        strata=tuple(
            Stratum(number=k + 1, name=NAMES[k], code=k + 1, pixels=n, area_m2=900.0 * n, points=int(COUNTS[k].sum()))
            for k, n in enumerate(PIXELS.tolist())
        ),
        allocation="proportional",
        seed=0,
        command="cwsam sample map.tif -n 200",
    )
    return SampleAssessment(
        sample="sample.gpkg",
        map="maps/map.tif",
        design=design,
        method="stratified, strata are map classes (Olofsson et al. 2014)",
        points=210,
        interpreted=200,
        interpreted_by_stratum=tuple(COUNTS.sum(axis=1).tolist()),
        overall=found.overall,
        classes=classes,
        matrix=tuple(map(tuple, found.matrix.tolist())),
        agreements=(
            InterpreterAgreement(first="reference", second="reference_2", points=50, agreement=0.9, kappa=None),
        ),
        notes=("10 of 210 points have no reference yet.",),
    )
