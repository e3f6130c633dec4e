"""Networks in formats that run without medldm."""
