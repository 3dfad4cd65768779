"""Sums over records, without Django: fold, cells, moving averages, histograms."""
