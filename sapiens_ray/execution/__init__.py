"""A job on Ray. The only room that imports ray. (Not `run`: that is the public function.)"""
