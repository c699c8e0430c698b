"""The end of every judging subcommand: the report, the verdict on the terminal, and its exit code."""

from __future__ import annotations

from gala.overfit.study import Study


def conclude(study: Study) -> int:
    """Writes ``report.html`` into the study, prints the verdict and returns its exit code."""
    from gala.experiments.statistics import EXIT_CODES
    from gala.reports.overfitting import write_report

    result = write_report(study.path, study.path / "report.html")
    for line in result["lines"]:
        print(line)
    print(f"report: {study.path / 'report.html'}")
    return EXIT_CODES[result["verdict"]]
