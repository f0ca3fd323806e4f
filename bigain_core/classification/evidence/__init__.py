"""Why a prompt wins, and which image a prompt fits best."""
