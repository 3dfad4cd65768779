/* Quicker reading of attributes of objects whose class is in Python, and of globals, and quicker ends of coroutines, for
 * code of mypyc: it is included before all of it.
 *
 * mypyc calls PyObject_GetAttr, which takes some 120 instructions for a field of a msgspec struct and 230 for a function
 * of a module. A plain request reads more than a hundred of them. What is not one of these two is read as before.
 *
 * In hot modules, each place that reads a certain attribute remembers where it found a field of a struct, as CPython's
 * own interpreter does (PEP 659): the version of a class tells whether it has changed. Likewise a function of a module,
 * and a global, by the version of the module's dictionary, where Python has one. packaging/compile_gateway.py puts these
 * calls in.
 */
#include <Python.h>
#include "CPy.h"

#ifndef Py_GIL_DISABLED
#ifdef Py_T_OBJECT_EX
#define SLOT_OF_OBJECT Py_T_OBJECT_EX
#else
#include <structmember.h>
#define SLOT_OF_OBJECT T_OBJECT_EX
#endif

#if !defined(Py_GIL_DISABLED) && PY_VERSION_HEX < 0x030D0000
#define VERSION_OF(dict) (((PyDictObject *)(dict))->ma_version_tag)
#endif

typedef struct {
    unsigned int version; /* of the class; 0: of none */
    unsigned int offset;
    uint64_t module_version; /* of the dictionary of the module; 0: of none */
    PyObject *value; /* the dictionary has it as long as its version is this one */
} Place;

static PyObject *read_attribute(PyObject *object, PyObject *name, Place *place) {
    PyTypeObject *type = Py_TYPE(object);
    if (type->tp_getattro == PyObject_GenericGetAttr) {
        /* A slot: what `__slots__` or a struct declares. It precedes everything else that has the name. */
        PyObject *found = _PyType_Lookup(type, name);
        if (found != NULL && Py_IS_TYPE(found, &PyMemberDescr_Type)) {
            PyMemberDescrObject *slot = (PyMemberDescrObject *)found;
            if (slot->d_member->type == SLOT_OF_OBJECT && slot->d_member->flags <= 1 /* read-only */
                && (slot->d_common.d_type == type || PyType_IsSubtype(type, slot->d_common.d_type))) {
                PyObject *value = *(PyObject **)((char *)object + slot->d_member->offset);
                if (value != NULL) {
                    place->version = type->tp_version_tag; /* 0 if the class has none */
                    place->offset = (unsigned int)slot->d_member->offset;
                    return Py_NewRef(value);
                }
            }
        }
    } else if (PyModule_CheckExact(object) && PyUnicode_READ_CHAR(name, 0) != '_') {
        /* No attribute of the class of modules has such a name. */
        PyObject *dict = PyModule_GetDict(object);
#ifdef VERSION_OF
        if (place->module_version == VERSION_OF(dict)) {
            return Py_NewRef(place->value);
        }
#endif
        PyObject *value = PyDict_GetItemWithError(dict, name);
        if (value != NULL) {
#ifdef VERSION_OF
            place->module_version = VERSION_OF(dict);
            place->value = value;
#endif
            return Py_NewRef(value);
        }
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    return PyObject_GetAttr(object, name);
}

#undef CPyObject_GetAttr
#define CPyObject_GetAttr(object, name) ({ Place place = {0}; read_attribute((object), (name), &place); })

/* The name must be a constant. */
#define remembered_attribute(object, name)                                                                           \
    ({                                                                                                               \
        static Place place;                                                                                          \
        PyObject *from = (object), *value = NULL;                                                                    \
        if (Py_TYPE(from)->tp_version_tag == place.version && place.version != 0)                                    \
            value = *(PyObject **)((char *)from + place.offset);                                                     \
        value != NULL ? Py_NewRef(value) : read_attribute(from, (name), &place);                                     \
    })
#else
#define remembered_attribute CPyObject_GetAttr
#endif

/* Nobody sees the traceback of StopIteration, by which each coroutine ends. */
#define add_traceback(...) (PyErr_ExceptionMatches(PyExc_StopIteration) ? (void)0 : CPy_AddTraceback(__VA_ARGS__))

#ifdef VERSION_OF
#define remembered_global(globals, name)                                                                             \
    ({                                                                                                               \
        static uint64_t version;                                                                                     \
        static PyObject *value; /* as Place.value */                                                                 \
        PyDictObject *dict = (PyDictObject *)(globals);                                                              \
        if (VERSION_OF(dict) != version) {                                                                           \
            value = PyDict_GetItemWithError((PyObject *)dict, (name));                                               \
            version = value == NULL ? 0 : VERSION_OF(dict);                                                          \
        }                                                                                                            \
        version != 0 ? Py_NewRef(value) : CPyDict_GetItem((PyObject *)dict, (name));                                 \
    })
#else
#define remembered_global CPyDict_GetItem
#endif
