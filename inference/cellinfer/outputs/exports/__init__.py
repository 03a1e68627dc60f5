"""Results for other programs: one module per format, each written field by field from a finished result folder.

A format is a module with a function

`planned(run, options)`
    the files it will write, relative to the export folder;
`writing(run, folder, options)`
    a context that gives the function to call with each `ResultField`, in plate order. Files appear, whole, when the
    context (or the field) ends without an error.
"""
