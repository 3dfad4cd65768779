/* Quicker reading of attributes of objects whose class is in Python, for code of mypyc: it is included before all of it.
 *
 * mypyc calls PyObject_GetAttr, which takes some 120 instructions for a field of a msgspec struct and 230 for a function
 * of a module. A plain request reads more than a hundred of them. What is not one of these two is read as before.
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

static PyObject *read_attribute(PyObject *object, PyObject *name) {
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
                    return Py_NewRef(value);
                }
            }
        }
    } else if (PyModule_CheckExact(object) && PyUnicode_READ_CHAR(name, 0) != '_') {
        /* No attribute of the class of modules has such a name. */
        PyObject *value = PyDict_GetItemWithError(PyModule_GetDict(object), name);
        if (value != NULL) {
            return Py_NewRef(value);
        }
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    return PyObject_GetAttr(object, name);
}

#undef CPyObject_GetAttr
#define CPyObject_GetAttr(object, name) read_attribute((object), (name))
#endif
