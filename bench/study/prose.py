"""The words of the report's page."""

from __future__ import annotations

INTRODUCTION = """# The study

The papers on distance maps (Ma et al. 2020, Xue et al. 2020, Valverde & Tohka 2021, Ma et al. 2021, Li et al.
2020) ask how the maps help segmentation networks. Here their methods train one small network on the same
volumes, in miniature: `make study` runs the comparison below on two CPU cores in less than half an hour, `make
study-full` every experiment of the list in `bench/study/experiments.py`.

*This page is written from the result files by `python -m bench.study report`.*
"""

VERDICTS = """Verdicts are computed. A difference (the method's minus the other's, with its 95 % interval) is
clear where the paired test says so at 5 %, corrected for the number of methods that are compared with the
baseline (or of the claim's own tests, where it compares others), and every run has its sign. *Similar* is an
interval that leaves out a Dice lower by 0.01 or an HD95 higher by 0.5 mm. What is not clear is not evidence of the
contrary: *cannot tell*.
"""

LIMITS = """### What it cannot tell

- **Size.** One data set of small volumes with two large, compact organs. Boundary, Hausdorff and MapDice losses
  were made for small or thin objects in large images, which are not here.
- **Length.** A few hundred steps. The papers train for hundreds of epochs; what converges slowly is at a
  disadvantage, and schedules that count epochs are compressed.
- **Reading maps.** Where a network predicts signed maps alone, the lowest map names the class. At a boundary two
  classes differ by a few hundredths of the maps' range: too little, perhaps, for so short a training.
- **Network.** A U-Net of 0.15 million parameters. A stronger one leaves less to a loss.
- **Training.** Three trainings of each experiment. The tests compare test cases, so they say that *these*
  networks differ; how far another seed would move them, the columns "runs better" and the ticks in the figure
  only hint at.
- **Tuning.** One learning rate, chosen for the baseline; the weights are the papers' or 1.
- **Rank scores** are our reading of Ma21's ranking: ranks of the mean Dice and NSD of each class, averaged.
"""

SCORES = """Means over held-out cases and classes with 95 % bootstrap intervals over cases; definitions are
MONAI's, NSD at 1 mm, ASD from the prediction's surface. A missed organ counts: its distances are the image's
diagonal, its overlaps 0. The rank score is the mean rank of mean Dice and NSD of each class, 1 the best.
"""

DIFFERENCES = """The same held-out case under both networks; intervals by bootstrap, p by Wilcoxon's signed-rank
test after Holm's correction over the rows, and in how many runs of the same seed the mean is better. **\\***: p
below 0.05, and all runs agree. The test asks for the typical case: a mean that a few far-off false positives make
can have an interval beside 0 and a large p.
"""

DEMONSTRATED = {
    "wrong_signs": """### Signs of the region-wise gradient

Random logits on random discs: in which share of the pixels gradient descent raises the logit of a class that is
wrong there, and of more than the true one's. With raw distance maps (`edt_diff`) wrong classes that are far
apart push each other; with rectified maps (`rrw`) all wrong classes cost the same.
""",
    "hollow": """### MapDice's hollow optimum

A free prediction (a logit per voxel) of a ball of radius 25 under MapDice, 300 steps of Adam. As printed the best
prediction is hollow; repaired it is the ball.
""",
    "island": """### The false-positive island

A perfect disc and an island of 3 x 3 pixels, so many pixels away: its Hausdorff loss over that of the same
island two pixels away. The distances of the foreground alone do not see where the island is.
""",
    "convergence": """### Raw against rectified maps on generated shapes

A small network learns images of discs; it has converged when every class has a Dice of at least 0.8 on them.
""",
}

YOUR_OWN = """## Your own data

```sh
pip install '.[study]'
python -m bench.study list                                  # every experiment, and which have run
python -m bench.study run --data FOLDER --only 'dice|boundary|hausdorff.*'
python -m bench.study report                                # study-output/report.md
```

`FOLDER` has the Decathlon's layout (`imagesTr`, `labelsTr`); spacing comes from the files. Each run writes one
file when it is complete: stop at any time and start again, what stands is skipped. An experiment is one line of
`bench/study/experiments.py`.
"""
