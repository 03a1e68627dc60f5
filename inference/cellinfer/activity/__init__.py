"""Compound activity: hits of assays predicted from chemical structure, morphology and expression.

After Moshkov et al., Predicting compound activity from phenotypic profiles and chemical structures, Nature
Communications 14, 2023. `molecules` reads and standardises structures, `chemistry` is what RDKit does for us, `filters`
are the steps on labels, `prepare` ties them together; `splits` divides compounds or assays into folds, `leakage` says
what folds have in common, `dividing` ties those together. `digests` takes from structures what models need,
`processes` does so in several processes; `graphs` are molecules as networks see them, `models` opens trained ones and
predicts with them, `fusion` makes one prediction of several, `metrics` judges them, `evaluation`
puts modalities beside each other. What needs RDKit says so when it is imported and RDKit is missing; nothing outside
this package does.
"""
