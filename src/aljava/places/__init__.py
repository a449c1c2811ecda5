"""Where a payload can stand: one small interface (`place.Place`), one module a kind."""
