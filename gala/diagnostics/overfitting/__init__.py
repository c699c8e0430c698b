"""Train and test MDPs: gaps, probes, audits."""
