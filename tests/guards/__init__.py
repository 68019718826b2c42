"""`make guards`: each of the fifteen guards against losing or doubling money is removed, and its tests have to fail.

removals   the fifteen failures, their guards, and the edits and statements that remove each
plugin     pytest, inside of a copy whose guard is removed: which tests run, which constraints are dropped
__main__   one copy of the tree a guard; the table
"""
