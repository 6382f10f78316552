"""`python -m limbeck`, which is also what `accelerate launch -m limbeck` runs."""

from limbeck.cli import main

main()
