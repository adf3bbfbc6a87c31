"""Runs a job on Ray. The only subpackage that imports ray. (It is not called `run`: that is the public function.)"""
