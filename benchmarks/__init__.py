"""What `make bench` runs. Each benchmark measures ours and a yardstick side by side in one run, and prints ratios."""
