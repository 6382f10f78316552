"""The best model for a budget: measure candidates, distil those that fit, hand over the file."""

from limbeck.fit.budget import Budget
from limbeck.fit.fitting import Fitted, fit

__all__ = ["Budget", "Fitted", "fit"]
