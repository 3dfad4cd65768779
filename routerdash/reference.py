"""stub"""
def is_reference(tables): return "endpoints" in tables
