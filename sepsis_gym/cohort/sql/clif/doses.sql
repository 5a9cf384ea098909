-- Given drugs, fluids and antibiotics of both medication tables, in known units.
-- Inputs:  clif_medication_admin_continuous, clif_medication_admin_intermittent, clif_medications
--          (itemid, antibiotic, unit, factor by med_category, med_name and med_dose_unit),
--          hospitalizations
-- Output:  subject_id, hadm_id, continuous, med_order_id, med_category, drug (med_name, else
--          med_category), route, time, itemid, antibiotic, dose, unit, action
WITH both_tables AS (
    SELECT TRUE AS continuous, * FROM clif_medication_admin_continuous
    UNION ALL BY NAME
    SELECT FALSE AS continuous, * FROM clif_medication_admin_intermittent
)
SELECT h.subject_id, h.hadm_id, d.continuous, d.med_order_id, d.med_category,
    coalesce(d.med_name, d.med_category) AS drug, d.med_route_category AS route,
    d.admin_dttm + h.clock AS time, m.itemid, m.antibiotic, d.med_dose * m.factor AS dose, m.unit,
    lower(d.mar_action_category) AS action
FROM both_tables d
JOIN clif_medications m ON m.med_category = d.med_category
    AND m.med_name IS NOT DISTINCT FROM d.med_name
    AND m.med_dose_unit IS NOT DISTINCT FROM d.med_dose_unit
JOIN hospitalizations h USING (hospitalization_id)
