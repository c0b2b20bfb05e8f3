"""Commands that measure: each prints ratios, taken side by side in one run, with the hardware."""
