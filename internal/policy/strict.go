package policy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

// maxDocument is the longest document read, in bytes: a ConfigMap's own limit.
const maxDocument = 1 << 20

// Parse decodes a policy document strictly, defaults and validates it. It reports every error at once, each with its
// field path and what is allowed.
func Parse(text []byte) (*Document, field.ErrorList) {
	tree, err := decodeTree(text)
	if err != nil {
		return nil, field.ErrorList{err}
	}
	if errs := checkVersion(tree); len(errs) > 0 {
		return nil, errs
	}
	errs := checkShape(tree, reflect.TypeFor[Document](), nil)
	shapeErrs := len(errs)
	clean, marshalErr := json.Marshal(tree)
	if marshalErr != nil {
		return nil, append(errs, field.InternalError(field.NewPath(DataKey), marshalErr))
	}
	d := scalarDefaults()
	if err := json.Unmarshal(clean, d); err != nil {
		return nil, append(errs, field.InternalError(field.NewPath(DataKey), err))
	}
	d.setDefaults()
	for _, invalid := range Validate(d) {
		// What a malformed field left behind has been reported as malformed already.
		if !slices.ContainsFunc(errs[:shapeErrs], func(e *field.Error) bool { return covers(e.Field, invalid.Field) }) {
			errs = append(errs, invalid)
		}
	}
	slices.SortStableFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	if len(errs) > 0 {
		return nil, errs
	}
	return d, nil
}

// checkVersion reports a document that is not of our version and kind: its fields are not ours to judge.
func checkVersion(tree map[string]any) field.ErrorList {
	var errs field.ErrorList
	for _, want := range []struct{ key, value string }{{"apiVersion", APIVersion}, {"kind", Kind}} {
		found, given := tree[want.key]
		switch {
		case !given || found == nil:
			errs = append(errs, field.Required(field.NewPath(want.key), "must be "+want.value))
		case found != want.value:
			errs = append(errs, field.NotSupported(field.NewPath(want.key), fmt.Sprint(found), []string{want.value}))
		}
	}
	return errs
}

func covers(parent, child string) bool {
	return child == parent || strings.HasPrefix(child, parent+".") || strings.HasPrefix(child, parent+"[")
}

// decodeTree decodes exactly one YAML (or JSON) document whose top level is a mapping without duplicate keys.
func decodeTree(text []byte) (map[string]any, *field.Error) {
	root := field.NewPath(DataKey)
	if len(text) > maxDocument {
		return nil, field.TooLong(root, "", maxDocument)
	}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	var only []byte
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, field.Invalid(root, field.OmitValueType{}, err.Error())
		}
		if isBlank(doc) {
			continue
		}
		if only != nil {
			return nil, field.Invalid(root, field.OmitValueType{}, "must hold one document; use a ConfigMap for each policy")
		}
		only = doc
	}
	if only == nil {
		return nil, field.Required(root, "must hold a policy document")
	}
	var document any
	if err := yaml.UnmarshalStrict(only, &document); err != nil {
		return nil, field.Invalid(root, field.OmitValueType{}, plainYAMLError(err))
	}
	tree, ok := document.(map[string]any)
	if !ok {
		return nil, field.Invalid(root, field.OmitValueType{}, "must be a mapping of apiVersion, kind and the policy's sections")
	}
	return tree, nil
}

// plainYAMLError returns what is wrong with a YAML text in one line, without the names of the packages that found it.
func plainYAMLError(err error) string {
	text := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n  ")
	return strings.ReplaceAll(text, "\n  ", "; ")
}

// isBlank tells whether a YAML document holds nothing but comments, space and separators.
func isBlank(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

// checkShape holds a decoded tree against a Go type: fields that the type does not have and values of the wrong type
// are reported and taken out of the tree, so that the rest can still be decoded and validated. Explicit nulls are taken
// out as well: they mean "left out".
func checkShape(tree map[string]any, t reflect.Type, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names, types := jsonFields(t)
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		fieldType, known := types[key]
		switch {
		case !known:
			errs = append(errs, unknownField(path.Child(key), key, names))
			delete(tree, key)
		case tree[key] == nil:
			delete(tree, key)
		default:
			if fieldType == reflect.TypeFor[Mode]() && tree[key] == false {
				tree[key] = string(Off) // What YAML makes of an Off without quotes.
			}
			problems := checkValue(tree[key], fieldType, path.Child(key))
			if unusable(problems, path.Child(key)) {
				delete(tree, key)
			}
			errs = append(errs, problems...)
		}
	}
	return errs
}

// checkValue returns an error at path itself where the value as a whole cannot be used.
func checkValue(value any, t reflect.Type, path *field.Path) field.ErrorList {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return checkUnmarshaler(value, t, path)
	}
	switch t.Kind() {
	case reflect.Struct:
		if m, ok := value.(map[string]any); ok {
			return checkShape(m, t, path)
		}
	case reflect.Map:
		if m, ok := value.(map[string]any); ok {
			return checkMap(m, t, path)
		}
	case reflect.Slice:
		if items, ok := value.([]any); ok {
			return checkList(items, t, path)
		}
	default:
		return checkScalar(value, t, path)
	}
	return field.ErrorList{field.TypeInvalid(path, value, "must be "+shapeName(t))}
}

// checkUnmarshaler is checkValue for a type that decodes itself.
func checkUnmarshaler(value any, t reflect.Type, path *field.Path) field.ErrorList {
	decoded := reflect.New(t).Interface()
	raw, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(raw, decoded)
	}
	if err != nil || value == nil {
		return field.ErrorList{field.Invalid(path, value, "must be "+unmarshalerName(t))}
	}
	if q, ok := decoded.(*resource.Quantity); ok && !kube.Reasonable(*q) {
		return field.ErrorList{field.Invalid(path, value, "is out of all proportion")}
	}
	return nil
}

func checkScalar(value any, t reflect.Type, path *field.Path) field.ErrorList {
	if raw, err := json.Marshal(value); err == nil && value != nil && json.Unmarshal(raw, reflect.New(t).Interface()) == nil {
		return nil
	}
	if n, ok := value.(float64); ok && t.Kind() == reflect.Int32 && n == math.Trunc(n) {
		return field.ErrorList{field.TypeInvalid(path, strconv.FormatFloat(n, 'f', -1, 64),
			fmt.Sprintf("must be between %d and %d", math.MinInt32, math.MaxInt32))}
	}
	return field.ErrorList{field.TypeInvalid(path, value, "must be "+shapeName(t))}
}

func checkList(items []any, t reflect.Type, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, item := range items {
		problems := checkValue(item, t.Elem(), path.Index(i))
		if unusable(problems, path.Index(i)) {
			items[i] = nil
		}
		errs = append(errs, problems...)
	}
	return errs
}

func checkMap(m map[string]any, t reflect.Type, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, key := range slices.Sorted(maps.Keys(m)) {
		problems := checkValue(m[key], t.Elem(), path.Key(key))
		if unusable(problems, path.Key(key)) {
			delete(m, key)
		}
		errs = append(errs, problems...)
	}
	return errs
}

// unusable tells whether an error is about the value at path as a whole, so that it cannot be decoded.
func unusable(errs field.ErrorList, path *field.Path) bool {
	return slices.ContainsFunc(errs, func(e *field.Error) bool { return e.Field == path.String() })
}

// jsonFields returns the names of a struct's JSON fields in the order of the type, and their types.
func jsonFields(t reflect.Type) ([]string, map[string]reflect.Type) {
	var names []string
	types := map[string]reflect.Type{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			names = append(names, name)
			types[name] = t.Field(i).Type
		}
	}
	return names, types
}

func unknownField(path *field.Path, key string, known []string) *field.Error {
	detail := "unknown field, allowed here: " + strings.Join(known, ", ")
	if near := nearest(key, known); near != "" {
		detail = fmt.Sprintf("unknown field, did you mean %q?", near)
	}
	return field.Invalid(path, field.OmitValueType{}, detail)
}

// nearest returns the known name that key is most likely a slip of, or "".
func nearest(key string, known []string) string {
	best, bestDistance := "", max(2, len(key)/3)+1
	for _, name := range known {
		if d := distance(strings.ToLower(key), strings.ToLower(name)); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}

// distance is the Levenshtein distance between two names, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := previous
			if a[i] != b[j] {
				cost++
			}
			previous = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// shapeName names a type in the words of somebody who writes YAML.
func shapeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "a mapping"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int32:
		return "a whole number"
	default:
		return "a string"
	}
}

// unmarshalerName names a type that decodes itself, with an example.
func unmarshalerName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[resource.Quantity]():
		return "a quantity like 300m or 800Mi"
	case reflect.TypeFor[metav1.Duration]():
		return "a duration like 24h or 30m"
	default:
		return t.Name()
	}
}
