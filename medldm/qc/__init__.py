"""What a scan is like before and after: noise, coverage of a model, a plan."""
