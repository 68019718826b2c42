"""`make drill`: books of many clean transactions, differences planted in them, all of them found, fixed, and closed to zero."""
