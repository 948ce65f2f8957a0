// Package mutate says what has to change in an object so that it follows the policy: an object in, changes out. It
// neither decides about modes nor refuses anything.
package mutate

import (
	"strings"

	"gomodules.xyz/jsonpatch/v2"

	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// Change is one value that has to change.
type Change struct {
	Rule policy.Rule
	// Field path of the value, in the API's own words.
	Field string
	// Old value; empty where it was absent.
	Old string
	// New value; empty where it is taken away.
	New string
}

// Note is something that should have changed and could not.
type Note struct {
	Rule  policy.Rule
	Field string
	// Message says why, and what would help.
	Message string
}

// Patch is what has to be done to the object's JSON: operations on exactly the paths that change.
type Patch []jsonpatch.Operation

func (p *Patch) put(pointer string, present bool, value any) {
	op := "add"
	if present {
		op = "replace"
	}
	*p = append(*p, jsonpatch.NewOperation(op, pointer, value))
}

func (p *Patch) remove(pointer string) {
	*p = append(*p, jsonpatch.Operation{Operation: "remove", Path: pointer})
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// pointer joins a JSON pointer and a key of an object.
func pointer(parent, key string) string { return parent + "/" + pointerEscapes.Replace(key) }
