"""The papers on distance maps in miniature, on real data: ``python -m bench.study --help``.

==================  ==================================================================================
``experiments``     what is compared: one list
``settings``        how long and on what: miniature (two CPU cores, 30 minutes) and full (a GPU)
``cases``           volumes, folds, random patches
``networks``        MONAI's U-Net and V-Net with the papers' heads
``criteria``        from an experiment to its loss
``training``        one run: training by Lightning, held-out cases by :mod:`dtkernels.metrics`
``runner``          all runs, in worker processes; one result file each
``demonstrations``  what the papers' losses do without any data
``analysis``        confidence intervals, paired tests, ranks
``claims``          what the papers say, and what the results say to that
``report``          tables, plots and the page of the guide
==================  ==================================================================================

It needs ``pip install 'dtkernels[study]'``.
"""
