"""One bench harness for every figure: envelope, rounds, histograms, process accounting, validity, reports."""
