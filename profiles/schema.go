package profiles

import _ "embed"

//go:embed schema.json
var schema []byte

// Schema is the JSON Schema (draft 2020-12) of profile files, with which editors
// complete and check them. Load checks more than a schema can say.
func Schema() []byte { return schema }
