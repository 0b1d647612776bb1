"""One lock file for each environment, and the programs that write and audit them."""
