"""Lock files, one for each environment, and the programs that write and audit them."""
