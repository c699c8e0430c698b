def make(id, num_envs, *, backend="auto", **o):
    from gala_envs.atari import AtariEnv
    o.pop("vectorization"); 
    if o["autoreset"]=="auto": o["autoreset"]="same-step"
    return AtariEnv(id,num_envs,**o)
