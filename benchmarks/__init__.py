"""What the kit promises about speed, measured beside what one would pick instead.

``make bench`` times it, ``make bench-strength`` judges how strong the quick attacks are.
"""
