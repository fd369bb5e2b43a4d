"""A recommendation source for the DGS: charts that editors keep."""
