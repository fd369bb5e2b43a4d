"""What a rehearsal or a large benchmark leaves behind: a record as JSON, a page to look at, raw histograms as files."""
