//! What a plugin author imports: traits, block helpers, the export macro.
