"""Text with terminal control sequences, odd characters and a forged line of a log."""

LINE = "I0101 00:00:00.000000 1 x.py:1] event=pushed site=C2"
NASTY = f"\x1b[2J\x1b[31mred\r\n{LINE}\n\u202edesrever\u2028\x9b1m\x00\x07end"
