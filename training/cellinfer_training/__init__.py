"""Training of the shipped models in torch; never imported by the deployment packages, absent from the wheel."""
