"""General tools for all programs, which know nothing about networks, scans or rounds.

Files:      atomic (whole or not at all), durable (names that survive a power cut), private
            (permissions), folder_lock, events (JSON lines),
            overwriting (checks that outputs do not replace inputs), text_files (encodings),
            array_files (NumPy), formats (a newer release's files), disk (full disks), writeback
            (early write-out), scalar_events (TensorBoard)
Processes:  workers (pools), periodic (calls from a thread), child_programs, interrupts (Ctrl-C),
            systemd, process_memory (peak), allocator (malloc settings)
Text:       progress (bars and lines), printable (foreign text), line_budget (limits on log lines),
            byte_counts, markdown_tables
Values:     randomness (keyed generators), backoff (pauses between retries), aligned (arrays for
            zero-copy use), nested (comparison of nested values), release (the installed version),
            settings (declared once), classes (the list of classes that labels and networks
            distinguish)

A leaf package: it uses the standard library, NumPy, tqdm and absl logging, and imports no other
package of this product. A module belongs here if at least two packages or programs could use it
unchanged.
"""
