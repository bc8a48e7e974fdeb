"""Every file that a step reads, damaged in thousands of ways: each is refused in words, or changes nothing.

python -m tests.fuzz --seed 0 --mutants 5000 --jobs 2 --out DIR      (make fuzz)
"""
